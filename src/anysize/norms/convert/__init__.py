"""Any norm in any model."""
