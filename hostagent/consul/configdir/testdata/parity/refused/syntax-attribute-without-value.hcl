service {
  name
}
