"""RecBole's run_recbole.py, with PRISM's models: python run_recbole_prism.py --model=PRISM_SASRec --dataset=ml-100k."""

import sys

from recbole_prism.run import main

if __name__ == "__main__":
    sys.exit(main())
