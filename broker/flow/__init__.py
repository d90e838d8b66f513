"""What the broker does with a message, one file per step: receive, accept, deliver, respond, notify.

Beside each deed here stands its decision in `broker.core`.
"""
