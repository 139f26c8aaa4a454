"""From expert versions to a mixture: assembled, scored, made anew after a withdrawal."""
