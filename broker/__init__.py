"""fhir-broker: a post office for FHIR messages.

A message's journey, naming the rooms in the order it passes them. A channel (`plugins/`, through the door
`broker.channel`) hands its bytes to `flow.receive`, which reads the header (`core.fhir`) and asks whether it may come
in. `flow.accept` decides the route (`core.routing` over a snapshot of `directory`), and keeps message and deliveries
in one transaction of the `store`; only then is the sender told. `flow.deliver` carries each delivery in the lane of
its peer, through the sender of a channel, until it is delivered, dead, withdrawn. A response is a message and comes
in by the same road; `flow.respond` finds the request that it answers, and the way back. `flow.notify` wakes whoever
follows a mailbox; `flow.subscribing` follows the log, and tells whoever subscribed to what passes through. `api`
shows all of it over HTTP, `commands` on the command line; `config` reads what an operator wants, and `app` is the one
place where the parts are built, joined, started and drained.
"""

__version__ = "0.1.0"
