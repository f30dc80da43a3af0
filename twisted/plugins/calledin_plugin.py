"""What makes `twistd calledin` known."""

from twisted.application.service import ServiceMaker

calledin = ServiceMaker(
    "calledin",
    "calledind.tap",
    "One GET request makes a phone ring and plays an MP3 to who answers.",
    "calledin",
)
