# What an image is made of, as SPDX 2.3 in JSON (https://spdx.github.io/spdx-spec/v2.3/). In: lines of
# name<TAB>version, one for each Debian package. Variables: suite, digest (of recipe and inputs), created
# (RFC 3339), agent (SHA-256 of the guest agent). Names and versions as Debian allows them need no
# escaping in JSON.

# Percent-encodes what a package URL (https://github.com/package-url/purl-spec) does not allow in a name or version.
function encoded(text) {
    gsub(/%/, "%25", text)
    gsub(/\+/, "%2B", text)
    gsub(/:/, "%3A", text)
    return text
}

function contains(element) {
    relations = relations ",\n    {\"spdxElementId\": \"SPDXRef-image\", \"relationshipType\": \"CONTAINS\", " \
        "\"relatedSpdxElement\": \"" element "\"}"
}

function package(id, name, rest) {
    return "    {\"SPDXID\": \"" id "\", \"name\": \"" name "\", \"downloadLocation\": \"NOASSERTION\", " \
        "\"filesAnalyzed\": false, " rest "}"
}

BEGIN {
    print "{"
    print "  \"spdxVersion\": \"SPDX-2.3\","
    print "  \"dataLicense\": \"CC0-1.0\","
    print "  \"SPDXID\": \"SPDXRef-DOCUMENT\","
    print "  \"name\": \"setup-remote-docker guest image\","
    print "  \"documentNamespace\": \"urn:setup-remote-docker:image:" digest "\","
    print "  \"creationInfo\": {\"created\": \"" created "\", \"creators\": [\"Tool: setup-remote-docker-images\"]},"
    print "  \"packages\": ["
    print package("SPDXRef-image", "guest-image", "\"primaryPackagePurpose\": \"OPERATING-SYSTEM\"") ","
    printf "%s", package("SPDXRef-agent", "guest-agent", \
        "\"checksums\": [{\"algorithm\": \"SHA256\", \"checksumValue\": \"" agent "\"}]")
    contains("SPDXRef-agent")
}

{
    id = $1
    gsub(/[^A-Za-z0-9.-]/, "-", id)
    # The number, because two names may differ only in what an id must not have.
    id = "SPDXRef-" NR "-" id
    printf ",\n%s", package(id, $1, "\"versionInfo\": \"" $2 "\", \"externalRefs\": [{\"referenceCategory\": " \
        "\"PACKAGE-MANAGER\", \"referenceType\": \"purl\", \"referenceLocator\": \"pkg:deb/debian/" encoded($1) "@" \
        encoded($2) "?distro=" suite "\"}]")
    contains(id)
}

END {
    print "\n  ],\n  \"relationships\": ["
    print "    {\"spdxElementId\": \"SPDXRef-DOCUMENT\", \"relationshipType\": \"DESCRIBES\", " \
        "\"relatedSpdxElement\": \"SPDXRef-image\"}" relations
    print "  ]\n}"
}
