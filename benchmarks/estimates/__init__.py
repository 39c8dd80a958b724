"""Compare what `pairmill plan` estimates with what the runs then take."""
