"""HTTP to our own servers without a proxy: ``urllib`` would use one from the environment, even for this machine."""

import urllib.request

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
