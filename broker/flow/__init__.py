"""What the broker does with a message, one file per step: receive, accept, deliver, respond, notify.

Beside each deed here stands its decision in `broker.core`. The steps share a few parts: a `letter` is a message on
its way through them, `plan` makes deliveries of a decision, `copies` knows what came before, `waits` keeps whoever
waits for the answer, and `callers` knows them all. `deliver` is the schedule; in it a `lane` hands parcels to
`carry`, which makes an `attempt`, and `settle` writes down its end. `report`, `sweep` and `retention` are what the
broker does of its own accord, as time passes; `subscribing` tells whoever asked to hear of what passes.
"""
