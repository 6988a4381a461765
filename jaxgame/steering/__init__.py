"""How to change what a population shows: sensitivity, inducement, floors, design (theory §5)."""
