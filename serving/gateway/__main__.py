"""``python -m serving.gateway``"""

import contract.ctrl_c

import sys

from serving.gateway.supervisor import main

sys.exit(main())
