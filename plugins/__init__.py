"""The channels that come with the broker: one folder each, all by the door `broker.channel`."""
