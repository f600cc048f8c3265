"""Chats with the weights of a job."""
