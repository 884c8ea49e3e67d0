"""What scenario and mechanics tests share: plans, a harness around a migration, clients with a ledger. No mocks."""
