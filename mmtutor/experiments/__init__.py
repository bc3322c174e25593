"""Recipes: one file per chapter, its rows (models, baselines, ablations) and how each is trained and scored."""
