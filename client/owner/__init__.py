"""What the owner has decided: its policy, the agreed plan, its secret, the choices at `join`."""
