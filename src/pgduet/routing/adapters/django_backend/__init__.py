"""A database backend of Django whose transactions follow the path of their context: `ENGINE` names this package."""
