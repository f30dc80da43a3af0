"""The page: what an operator, or who tries calledin for the first time, sees in a browser.

`access` says who may, `face` which path leads where, `files` serves what is below `static/` (plain HTML, CSS and ES
modules: no build step, nothing from elsewhere), `live` tells pages what happens while they are open, `sound` what was
played in a call. `phone` and `line` are the telephone in the browser, where the built-in carrier takes the calls.
Operators' requests below /admin/ are those of `api.admin`, the same as over its socket.
"""
