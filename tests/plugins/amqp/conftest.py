"""The desk of the AMQP channel, for the tests of this folder."""

from amqp_desk import bench, node

__all__ = ["bench", "node"]
