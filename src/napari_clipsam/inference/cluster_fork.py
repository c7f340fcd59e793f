"""What the process that workers are forked from imports first: Ctrl-C ends it without a word.

It does as long as the rest is imported; then Python itself lets that process ignore Ctrl-C.
"""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)
