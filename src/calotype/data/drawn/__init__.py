"""Pictures that are drawn, endless and with their true factors."""
