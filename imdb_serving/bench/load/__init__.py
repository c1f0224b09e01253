"""Load: clients that send requests and keep every stamp; what they send. Knows no ledger and no figure."""
