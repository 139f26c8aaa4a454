"""Trains a router by gradient or by REINFORCE (ReMix)."""
