"""``python -m client.gateway``"""

import sys

from client.gateway.supervisor import main

sys.exit(main())
