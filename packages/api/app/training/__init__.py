"""The generated copy of the SDK's base-model catalog."""
