"""Subscriptions at work: who hears of what passes through, and how it reaches them.

`registry` holds all of them, as the store has them. `tell` follows the log and gives events their numbers; `notices`
turns numbers into notifications and hands these to the lanes, one at a time for each subscription; `feed` does the same
for sockets; `composing` writes what is sent. `service` is what subscribers ask: it creates, changes and removes them.
"""
