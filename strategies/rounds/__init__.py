"""Rounds of any stage: who is asked, who is waited for, how large an update may be."""
