"""What collectives send: measured, and by the formulae of the algorithms."""
