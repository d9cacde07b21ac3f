"""The flows that users run and deploy, each the whole pipeline in one screen."""
