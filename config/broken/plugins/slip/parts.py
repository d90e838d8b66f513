"""What is wrong stands in line 3."""

import no_such_library

CHANNEL = no_such_library.channel()
