"""Subscriptions: who wants to hear of what, and in which shape (spec: subscriptions).

`subscription` is what somebody asked for; `read` takes it out of a resource of any of the three models (`read_r4`,
`read_r5`), `check` says what is refused, `write` shows it again, `life` knows what its status becomes. `topic` is what
may be asked for: its rules and filters are `query` (search criteria, by `parameters`) and `fhirpath`, its forms
`topic_resource` and `topic_form`. `content` opens a message, `occurrence` finds what topics tell of in it, `matching`
who hears of that, `pace` when. `notification` is what is sent, `wrap` the same as a message, `cloud` as a CloudEvent,
`mail` in words; `foreign` reads what others send. `operations`, `binding` and
`consent` are what subscribers ask and say besides; `offering` is what the configured channels offer them, `shown` a
Subscription for clients of another release.
"""
