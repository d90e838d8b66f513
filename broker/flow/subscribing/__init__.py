"""Subscriptions at work: who hears of what passes through, and how it reaches them.

`registry` holds all of them, as the store has them. `tell` follows the log and gives events their numbers; `notices`
turns numbers into notifications and hands these to the lanes, one at a time for each subscription; `feed` does the same
for sockets; `composing` writes what is sent, from what `material` opens once for all. Beside `notices` stand what it
needs: `posting` (a notification as a message), `under_way` (how these end), `moves` (what that means, written down),
`starts` (when they may leave), `fresh` (how many at once). `service` is what subscribers ask: it creates, changes and
removes them. `joined` puts all that together.
"""
