"""What people who administer datasets do with them."""
