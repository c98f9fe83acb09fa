"""Address management: which subnets a network gets, and which addresses an endpoint. None knows networks or drivers."""
