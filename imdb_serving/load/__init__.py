"""Load: clients that send requests and keep every stamp. Knows no ledger and no figure."""
