"""Subscriptions: who wants to hear of what, and in which shape (spec: subscriptions).

`subscription` is what somebody asked for; `read` takes it out of a resource of any of the three models (`read_r4`,
`read_r5`), `check` says what is refused, `write` shows it again, `life` knows what its status becomes. `topic` is what
may be asked for: its trigger and filters are `query` (search criteria, by `parameters`) and `fhirpath`, its forms
`topic_resource` and `topic_form`. `content` opens a message, `matching` finds who hears of it. `notification` is what
is sent, `status` its first entry, `wrap` the same as a message, `cloud` as a CloudEvent, and `foreign` reads what
others send.
"""
