"""Requests that nobody wrote by hand: from the service's own description, and as bytes that no library would send."""
