from tests.integration.databases import clock, cluster, databases, db, kind, url

__all__ = ["clock", "cluster", "databases", "db", "kind", "url"]
