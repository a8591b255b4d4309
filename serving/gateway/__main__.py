"""``python -m serving.gateway``"""

import sys

from serving.gateway.supervisor import main

sys.exit(main())
