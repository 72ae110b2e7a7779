"""The database and the blobs: the only place where service and worker meet.

Functions take a Session, flush and never commit; the transaction is opened at the edge, by `Database.read` and
`Database.write`. Knows nothing of torch.
"""
