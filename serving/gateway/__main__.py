"""``python -m serving.gateway``"""

import contract.program

import sys

from serving.gateway.supervisor import main

sys.exit(main())
