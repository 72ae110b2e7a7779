from tests.buckets import s3
from tests.integration.databases import clock, cluster, databases, db, kind, url

__all__ = ["clock", "cluster", "databases", "db", "kind", "s3", "url"]
