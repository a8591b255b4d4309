"""HTTP to our own servers, straight: ``urllib`` would ask a proxy of the environment, even for this machine."""

import urllib.request

STRAIGHT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
