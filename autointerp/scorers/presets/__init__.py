"""Scorers that ask and count as published tools do, and give the corrected number beside theirs."""
