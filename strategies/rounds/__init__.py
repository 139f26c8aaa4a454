"""Rounds of any stage: who is asked and waited for, how replies are read, how large they may be."""
