"""For `twistd -ny calledin.tac`: the daemon as `twistd calledin` without options, or with $CALLEDIN_CONFIG's settings."""

import os

from twisted.application.service import Application

from calledind.tap import Options, makeService

options = Options()
options.parseOptions(["--config", os.environ["CALLEDIN_CONFIG"]] if "CALLEDIN_CONFIG" in os.environ else [])

application = Application("calledin")
makeService(options).setServiceParent(application)
