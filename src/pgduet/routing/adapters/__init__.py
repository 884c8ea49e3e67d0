"""What turns a `Path` into SQL for the libraries that services use: one module for each, which needs that library's extra.

All of them say `SET LOCAL search_path` at the start of a transaction, which holds behind any pooler, or pin a
connection to a version for its whole life, where prepared statements are worth it. None changes the search_path under
a prepared statement.
"""
