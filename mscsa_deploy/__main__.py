"""`python -m mscsa_deploy` is the command line `mscsa-deploy`."""

from mscsa_deploy.cli import main

if __name__ == "__main__":
    main()
