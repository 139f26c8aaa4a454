"""The invite, and a federation's description for clients."""
