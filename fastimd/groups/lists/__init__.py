"""Group lists: what each list socket shows, and when it is pushed anew."""
