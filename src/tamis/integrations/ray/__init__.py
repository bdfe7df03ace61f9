"""Ray: encoding and shard search on a cluster."""

from tamis.integrations.ray.engine import RayEngine as RayEngine
