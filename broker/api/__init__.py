"""The reading side over HTTP: who writes is a channel, who reads is api."""
