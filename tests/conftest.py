"""What holds for all tests."""

from __future__ import annotations

import signal

# Who is started in the background of a shell ignores Ctrl-C, and so do its children: tests of it
# would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
