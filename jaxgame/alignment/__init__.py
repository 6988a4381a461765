"""The experiment end to end: survey, group models, game, equilibrium, models that play it, text, and back."""
